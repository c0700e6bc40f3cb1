"""ONNX Runtime Web: the graphs in a browser (WebAssembly), driven through WebDriver."""
