//! The program that runs on the device: reads jobs, runs ONNX Runtime, streams JSON lines.
