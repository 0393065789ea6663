"""Secrets taken out of text before it is shown: out of logs, of commands, of Slurm's words.

Secrets are known by their look, so rather too much is taken out than too little. What has no look
cannot be hidden: a bare password in the middle of a sentence stays.
"""

import re

HIDDEN = "***"

_WORD = (
    r"(?:token|passwo?r?d|passphrase|secret|credential|jwt|(?:api|access|private|secret)[_-]?key)"
)
_NAME = rf"(?<![\w-])[\w-]{{0,64}}?{_WORD}"  # bounded, so that a long line takes linear time
_VALUE = r"""(?:"[^"\n]*"?|'[^'\n]*'?|[^\s"'&,;)}\]]+)"""
# Pattern and what stays of it. Those that look at names come before those that look at values.
_SECRETS = (
    (r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", ""),
    (r"(\b[a-z][a-z0-9+.-]{0,20}://)[^\s/\"'<>]{1,500}@", r"\1***@"),
    (r"(\bauthorization[\"']?\s*[:=]\s*[\"']?(?:bearer|basic|token)?)\s+[^\s\"',]+", r"\1 "),
    (rf"({_NAME}[\"']?\s*[:=]\s*){_VALUE}", r"\1"),
    (rf"((?<![\w-])-[\w-]{{0,64}}?{_WORD}\s+)(?!-){_VALUE}", r"\1"),
    (r"(\bbearer\s+)[\w.~+/=-]{16,}", r"\1"),
    (r"\b(?:hf_|gh[opsru]_|github_pat_|glpat-|sk-|xox[abeprs]-|pn[bu]_)[\w-]{16,}", ""),
    (r"\bA[KS]IA[0-9A-Z]{16}\b", ""),
    (r"\beyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?", ""),
)
_PATTERNS = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), kept if HIDDEN in kept else kept + HIDDEN)
    for pattern, kept in _SECRETS
)


def redact(text: str) -> str:
    """Return a text with what looks like a secret replaced by ``***``.

    That is: private keys, user and password of an address, what follows a name such as
    ``HF_TOKEN=`` or ``--password``, headers of authorization, and tokens of well-known make.

    Args:
        text: Any text, of one line or many.
    """
    for pattern, kept in _PATTERNS:
        text = pattern.sub(kept, text)
    return text
