"""One package a paper; what several papers share lies here or in methods/architectures/."""
