"""Typical mistakes in the exercises of notebook 02: (answer, outcome, part of the message)."""

MISTAKES = {
    "generation_prompt": [
        (  # the whole rendering
            """
def generation_prompt(tokenizer, messages):
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
""",
            "wrong",
            "nothing of the messages",
        ),
        (  # stripped
            """
def generation_prompt(tokenizer, messages):
    a = tokenizer.apply_chat_template(messages, tokenize=False)
    b = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return b.removeprefix(a).strip()
""",
            "wrong",
            "line break included",
        ),
        (  # known by heart
            "def generation_prompt(tokenizer, messages): return '<|im_start|>assistant\\n'",
            "wrong",
            "other templates",
        ),
        (  # replaces every place
            """
def generation_prompt(tokenizer, messages):
    b = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return b.rsplit(messages[-1]["content"], 1)[1].split("<|im_end|>\\n")[-1].lstrip("\\n")
""",
            "wrong",
            "user types the same text",
        ),
        (  # ids
            """
def generation_prompt(tokenizer, messages):
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True)
""",
            "error",
            "tokenize=False",
        ),
        ("def generation_prompt(tokenizer, messages): ...", "not attempted", "blank"),
    ],
    "llama3": [
        (  # begin of text before each turn
            """
def llama3(messages, ask=False):
    h = "<|start_header_id|>{}<|end_header_id|>\\n\\n"
    turns = ["<|begin_of_text|>" + h.format(m["role"]) + m["content"] + "<|eot_id|>"
             for m in messages]
    return "".join(turns) + (h.format("assistant") if ask else "")
""",
            "wrong",
            "one `<|begin_of_text|>`",
        ),
        (  # no end of turn
            """
def llama3(messages, ask=False):
    h = "<|start_header_id|>{}<|end_header_id|>\\n\\n"
    text = "<|begin_of_text|>" + "".join(h.format(m["role"]) + m["content"] for m in messages)
    return text + (h.format("assistant") if ask else "")
""",
            "wrong",
            "each turn ends",
        ),
        (  # one line break, as in ChatML
            """
def llama3(messages, ask=False):
    h = "<|start_header_id|>{}<|end_header_id|>\\n"
    turns = [h.format(m["role"]) + m["content"] + "<|eot_id|>" for m in messages]
    return "<|begin_of_text|>" + "".join(turns) + (h.format("assistant") if ask else "")
""",
            "wrong",
            "two line breaks",
        ),
        (  # always asks
            """
def llama3(messages, ask=False):
    h = "<|start_header_id|>{}<|end_header_id|>\\n\\n"
    turns = [h.format(m["role"]) + m["content"] + "<|eot_id|>" for m in messages]
    return "<|begin_of_text|>" + "".join(turns) + h.format("assistant")
""",
            "wrong",
            "unless `ask`",
        ),
        (  # never asks
            """
def llama3(messages, ask=False):
    h = "<|start_header_id|>{}<|end_header_id|>\\n\\n"
    turns = [h.format(m["role"]) + m["content"] + "<|eot_id|>" for m in messages]
    return "<|begin_of_text|>" + "".join(turns)
""",
            "wrong",
            "ends in an open header",
        ),
        (  # a line break between turns
            """
def llama3(messages, ask=False):
    h = "<|start_header_id|>{}<|end_header_id|>\\n\\n"
    turns = [h.format(m["role"]) + m["content"] + "<|eot_id|>\\n" for m in messages]
    return "<|begin_of_text|>" + "".join(turns) + (h.format("assistant") if ask else "")
""",
            "wrong",
            "nothing but header",
        ),
    ],
    "harmless": [
        (  # the usual call
            "def harmless(tokenizer, text): return tokenizer(text)['input_ids']",
            "wrong",
            "no id of a control token",
        ),
        (  # leaves them out
            """
def harmless(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    return [i for i in ids if i not in tokenizer.all_special_ids and i < 256]
""",
            "wrong",
            "still there",
        ),
        (  # replaces the text once
            """
def harmless(tokenizer, text):
    for mark in ("<|im_start|>", "<|im_end|>"):
        text = text.replace(mark, mark[1:-1])
    return tokenizer(text)["input_ids"]
""",
            "wrong",
            "every character",
        ),
        (  # letters instead of ids
            "def harmless(tokenizer, text): return tokenizer.tokenize(text)",
            "wrong",
            "a list of ids",
        ),
    ],
}
