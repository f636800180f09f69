"""Making tensors of blocks: headers, order, staging and handing out."""
