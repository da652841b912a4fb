"""Compression toolbox after two surveys (Goel et al. 2020; Cheng et al. 2017): composable stages, one sheet."""
