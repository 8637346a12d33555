"""Conversation -> token ids, labels, and why each token is trained or not.

``rendering`` turns a conversation into the chat template's text and knows who wrote which part,
``encoding`` turns that into tokens and labels, ``fit`` shortens what is too long, ``calls`` reads
and writes tool calls. Taught in notebooks/02_tokens_and_chat_templates.ipynb and
notebooks/04_loss_masking.ipynb.
"""

from ftlab.chat.encoding import (
    IGNORED,
    Masking,
    asked,
    encode,
    example,
    parity,
    pieces,
    prompt_ids,
    question,
    text_end_id,
    with_system,
)

__all__ = [
    "IGNORED",
    "Masking",
    "asked",
    "encode",
    "example",
    "parity",
    "pieces",
    "prompt_ids",
    "question",
    "text_end_id",
    "with_system",
]
