"""The parts of scripts/make_tiny_models.py, one subject a file:

formula          values of weights as a function of seed, tensor name and index; tensors.json
spec             a configuration resolved into what the layers compute
weights          tensors of any family's names brought under one set of names
forward          the model once more, in plain PyTorch, with places where operands can be rounded
measure          gaps, noise, effects of mistakes, deviation of bfloat16
reference        what transformers computes
expected         the files of expected data
families         configurations of the families whose weights are a formula
tensors          names, shapes and formulas of a published checkpoint's tensors
published        the configuration files in their several spellings
stored           the families whose checkpoints are stored as files
formats          formats of quantised weights, to and fro
format_mistakes  wrong readings of them
quantised        checkpoints with quantised weights
readme           README.md of the data
make             puts these together
"""
