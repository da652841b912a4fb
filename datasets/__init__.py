"""LightningDataModules by kind of data. Each says in its docstring what it yields, and declares its `task`."""
