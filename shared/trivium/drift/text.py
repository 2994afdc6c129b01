"""What can be told of a text without a model: its words and, roughly, its language."""

import re
import zlib
from collections import Counter

_WORD = re.compile(r"[぀-ヿ㐀-鿿가-힯]|[^\W\d_]+(?:['\u2019][^\W\d_]+)*|\d+")
_NUMBER = "#"
_SCRIPTS = (
    *(("cyrillic", 0x0400, 0x052F), ("greek", 0x0370, 0x03FF), ("hebrew", 0x0590, 0x05FF)),
    *(("arabic", 0x0600, 0x06FF), ("devanagari", 0x0900, 0x097F), ("thai", 0x0E00, 0x0E7F)),
    *(("kana", 0x3040, 0x30FF), ("han", 0x3400, 0x9FFF), ("hangul", 0xAC00, 0xD7AF)),
)
_STOP_WORDS = {
    "en": "the and is to of in my i you it for on have has not do does what how can this that with was are",
    "de": "der die das und ist ich nicht ein eine mit für auf von mir wie kann meine mein habe es zu wurde",
    "fr": "le la les et est je ne pas un une pour dans mon ma que qui comment puis avec ai des du sur",
    "es": "el la los las y es no un una para en mi que como puedo con por del tengo se ha está qué",
    "it": "il la le gli e è non un una per in mio mia che come posso con del ho si sono di perché",
    "pt": "o a os as e é não um uma para em meu minha que como posso com do da tenho se foi está",
    "nl": "de het een en is ik niet voor op van mijn hoe kan met heb dit dat er naar wat ben",
}
_LANGUAGES = {language: frozenset(words.split()) for language, words in _STOP_WORDS.items()}
UNKNOWN, LATIN = "unknown", "latin"
LOOKED_AT = 400
"""Characters from which a language is told."""


def words(text: str) -> list[str]:
    """The words in order, without case; all numbers are one, a Chinese or Japanese letter is one each."""
    return [_NUMBER if word[0].isdigit() else word for word in _WORD.findall(text.casefold())]


def hash_of_word(word: str) -> int:
    """32 bits; a word that one thinks of can be found by them."""
    return zlib.crc32(word.encode())


def language(text: str) -> str:
    """The script, or for Latin script the language whose stop words are most frequent; `unknown` if none is.

    A heuristic: it is wrong about a single short text now and then, and equally often in both windows.
    """
    text = text[:LOOKED_AT]
    scripts = Counter(_script(letter) for letter in text if letter.isalpha()) if not text.isascii() else None
    script = scripts.most_common(1)[0][0] if scripts else LATIN
    if script != LATIN:
        return script
    found = words(text)
    hits = {name: sum(word in stop for word in found) for name, stop in _LANGUAGES.items()}
    best = max(hits.values())
    named = [name for name, count in hits.items() if count == best]
    return named[0] if best and len(named) == 1 else UNKNOWN


def _script(letter: str) -> str:
    code = ord(letter)
    return next((name for name, first, last in _SCRIPTS if first <= code <= last), LATIN)
