"""What every study is built on: variants and methods, run folders, files, checkpoints, processes, the terminal."""
