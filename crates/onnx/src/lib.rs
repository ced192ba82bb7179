//! Writes ONNX graphs of blocks, chains of blocks and whole sub-networks.
