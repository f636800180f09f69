"""Making tensors of blocks: headers, selection, staging, handing out and filling targets."""
