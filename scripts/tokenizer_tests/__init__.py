"""What make_tokenizer_tests.py is made of.

    strings.py     the strings that are tokenized, and the text that is trained on
    kinds.py       small tokenizers in every format
    reference.py   the libraries whose ids are taken as right
    variants.py    the components of tokenizer.json one by one
"""
