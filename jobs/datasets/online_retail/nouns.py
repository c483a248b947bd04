"""What kind of thing a description names: the category of a product that has none.

Descriptions read like `RED RETROSPOT CAKE STAND` or `JUMBO BAG PINK POLKADOT`: colours and patterns
stand around a noun. The category is the last product noun before a preposition, else the last in
the whole text, else the last shape (a `HEART OF WICKER` is a heart), else `OTHER`.

The lists are written by hand from the names on sale before the validation period began. They hold
no counts: what a name means does not depend on what anybody bought.
"""

from __future__ import annotations

import re

OTHER = "OTHER"

PRODUCTS = frozenset(
    """
    ALBUM ANGEL APRON BACKPACK BAG BALL BALLOON BANGLE BANK BASKET BAUBLE BEAKER BELL BIN BIRDHOUSE
    BLACKBOARD BLOCK BOARD BOOK BOTTLE BOWL BOX BRACELET BROOCH BRUSH BUCKET BUNTING CABINET
    CAKESTAND CALCULATOR CALENDAR CAN CANDLE CANDLEHOLDER CANDLESTICK CANVAS CARD CASE CHAIR CHALK
    CHALKBOARD CHANDELIER CHARM CHEST CHOPSTICK CLAY CLIP CLOCK COASTER COLANDER COMB CONE CONTAINER
    COSY COVER CRACKER CRATE CRAYON CUP CURTAIN CUSHION CUTLERY CUTTER DECORATION DISH DISPENSER
    DOILY DOLL DOORMAT DOORSTOP DRAWER EARRING ERASER FAN FLAG FLANNEL FOB FORK FRAME GAME GARLAND
    GLIDER GLOBE GLOSS GLOVE GNOME GOBLET HAMMOCK HANDBAG HANGER HAT HOLDER HOOK INCENSE INVITE JAR
    JIGSAW JUG KEYRING KIT KNOB LABEL LADDER LAMP LAMPSHADE LANTERN LIGHT MAGNET MARKER MAT MATCH
    MEMOBOARD MIRROR MOBILE MOULD MUG NAPKIN NECKLACE NOTEBOOK NOTEPAD ORGANISER ORNAMENT OVEN PAD
    PAN PARASOL PATCH PEG PEN PENCIL PENDANT PHOTO PLACEMAT PLANT PLANTER PLASTER PLATE PLATTER
    PLAYHOUSE PONCHO PORTRAIT POSTCARD POSTER POT PURSE PUZZLE RACK REEL RIBBON RING ROLL ROPE RULER
    SAUCER SCALE SCARF SCISSOR SCREEN SCREWDRIVER SECATEUR SHELF SIGN SKETCHBOOK SKITTLE SLATE
    SLIPPER SOCK SPADE SPONGE SPOON STAMP STAND STATIONERY STENCIL STICKER STOCKING STOOL STRAINER
    STRAW TABLE TABLECLOTH TAG TAPE TEAPOT TEASPOON THERMOMETER TICKET TIDY TILE TIN TISSUE TONG
    TOOL TORCH TOWEL TOY TRAY TREE TROWEL TUBE UMBRELLA VASE WALLET WARMER WASHBAG WINDMILL WRAP
    WREATH
    """.split()  # noqa: SIM905  # two hundred quoted words are harder to read
)
SHAPES = frozenset(
    """
    BIRD BUTTERFLY CHICK EGG FAIRY FLOWER FRIEND GLASS HEART RABBIT SET STAR
    """.split()  # noqa: SIM905  # as above
)
ALIASES = {
    "CHOCOLATECANDLE": "CANDLE",
    "DEC": "DECORATION",
    "DOILEY": "DOILY",
    "DOILIE": "DOILY",
    "DRAWERKNOB": "KNOB",
    "FELTCRAFT": "KIT",
    "NECKL": "NECKLACE",
    "SHOPPER": "BAG",
    "TINS": "TIN",
}

_WORD = re.compile(r"[A-Z]+")
_PREPOSITION = re.compile(r"\b(?:WITH|FOR|IN|ON|W)\b|[,/]")
_PLURALS = (("IES", "Y"), ("VES", "F"), ("XES", "X"), ("CHES", "CH"), ("SHES", "SH"), ("S", ""))


def head_noun(description: str) -> str:
    """The category of one description.

    >>> head_noun("WHITE HANGING HEART T-LIGHT HOLDER"), head_noun("LUNCH BOX WITH CUTLERY")
    ('HOLDER', 'BOX')
    >>> head_noun("PACK OF 72 RETROSPOT CAKE CASES"), head_noun("HEART OF WICKER SMALL")
    ('CASE', 'HEART')
    """
    text = description.upper()
    before = [_singular(word) for word in _WORD.findall(_PREPOSITION.split(text, maxsplit=1)[0])]
    whole = [_singular(word) for word in _WORD.findall(text)]
    for words, nouns in ((before, PRODUCTS), (whole, PRODUCTS), (whole, SHAPES)):
        found = [word for word in words if word in nouns]
        if found:
            return found[-1]
    return OTHER


def _singular(word: str) -> str:
    if word in ALIASES or word in PRODUCTS or word in SHAPES:
        return ALIASES.get(word, word)
    for ending, instead in _PLURALS:
        if word.endswith(ending):
            word = word.removesuffix(ending) + instead
            break
    return ALIASES.get(word, word)
