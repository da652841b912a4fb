"""Coding: weight sharing, relative indices, Huffman codes, and the file format .dcz."""
