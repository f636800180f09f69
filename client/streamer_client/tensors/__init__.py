"""Making tensors from blocks: headers, selection, staging, handing out and filling targets."""
