"""The strings that make_tokenizer_tests.py has tokenized, and the text that it trains on.

Only characters of Unicode 9 occur: the Hugging Face library normalises by the tables of that
version, and newer characters are a known difference.
"""
import random

SENTENCES = [
    "The wagons roll over the points and find their track by the number on the card.",
    "Don't worry, it's only rain; we've seen worse and they'll wait for us, won't they?",
    "Der Rangierbahnhof ist größer als gedacht, aber schön übersichtlich.",
    "Les aiguilles changent de voie; l'été, tout brûle déjà à midi.",
    "El niño preguntó: ¿dónde está el tren de las ocho?",
    "A manhã começou com pão, café e uma canção.",
    "Поезд идёт на север, а вагоны считают по одному.",
    "Το τρένο φεύγει στις οκτώ από την παλιά αποβάθρα.",
    "הרכבת יוצאת בשמונה מהרציף הישן.",
    "القطار يغادر المحطة عند الساعة الثامنة.",
    "قطار ساعت هشت از ایستگاه می‌رود.",
    "गाड़ी आठ बजे स्टेशन से निकलती है और क्षत्रिय मार्ग पर जाती है।",
    "ট্রেন আটটায় পুরনো স্টেশন থেকে ছাড়ে।",
    "ரயில் எட்டு மணிக்கு பழைய நிலையத்திலிருந்து புறப்படும்.",
    "రైలు ఎనిమిది గంటలకు పాత స్టేషన్ నుండి బయలుదేరుతుంది.",
    "ರೈಲು ಎಂಟು ಗಂಟೆಗೆ ಹಳೆಯ ನಿಲ್ದಾಣದಿಂದ ಹೊರಡುತ್ತದೆ.",
    "ട്രെയിൻ എട്ടു മണിക്ക് പഴയ സ്റ്റേഷനിൽ നിന്ന് പുറപ്പെടും.",
    "ટ્રેન આઠ વાગ્યે જૂના સ્ટેશનથી નીકળે છે.",
    "ଟ୍ରେନ ଆଠଟାରେ ପୁରୁଣା ଷ୍ଟେସନରୁ ଛାଡ଼େ।",
    "ਰੇਲ ਗੱਡੀ ਅੱਠ ਵਜੇ ਪੁਰਾਣੇ ਸਟੇਸ਼ਨ ਤੋਂ ਚੱਲਦੀ ਹੈ।",
    "รถไฟออกจากสถานีเก่าตอนแปดโมงเช้า",
    "列车八点从旧车站出发，车厢按编号分配到轨道。",
    "列車は八時に古い駅を出て、テストコースへ向かう。ーー",
    "기차는 여덟 시에 옛 역에서 출발합니다.",
    "Tàu rời ga cũ lúc tám giờ sáng, trời còn mờ sương.",
    "Pociąg odjeżdża o ósmej z peronu trzeciego; żółta łódź źle śpi.",
    "for (int i = 0; i < n; i++) {\n\tif (a[i] != b[i]) return -1; // differs\n}\n",
    "def route(x, k=8):\n    \"\"\"Top-k experts.\"\"\"\n    return sorted(x)[-k:]\n\n\n",
    "{\"id\": 12345, \"name\": \"n\\u00e4me\", \"list\": [1, 2.5, -3e10, null, true]}\r\n",
    "SELECT * FROM cars WHERE axle_load > 22.5 AND track = 'B7';",
    "<div class=\"a b\">&nbsp;100&nbsp;%</div>\n\n   <!-- x -->   \n",
    "E = mc², 1/2 = ½, ∑ᵢ xᵢ ≤ √π ≈ 1.772, 10⁻³ Ω",
]

# Cases that each have a property of their own (pre-token borders, case folding, composition).
TABLE = [
    "", " ", "  ", "   x", "x  y", " \n", "\n ", "a \n b", "a\r\n\r\nb", "\t", "\r", "\u00a0x",
    "a\u0085b", "a\u180eb", "a\u200bb", "\ufeffx", "a\u0000b", "\u0000", "\u001b[0m", "don't",
    "DON'T", "x'\u017f", "we'\u212a", "can\u2019t", "'s's", "O'Re", "1234567", "1 234",
    "1,234.5", "\u0663\u0664\u0665\u0666", "\u00bd\u2167", "CamelCase", "iOS", "HTTPServer",
    "\u01c5unka", "e\u0301", "e\u0301\u0327", "\u0301a", "\u0301\u0327", "\u1100\u1161",
    "\u1100\u1161\u11a8", "\uac00\u11a8", "\u2126", "\u212b", "\u0915\u094d\u0937\u0924",
    "\u0929\u0928\u093c", "\u09c7\u09be", "\u0bc6\u0bbe", "\u0958", "\u0344", "\u0340", "\u1e69",
    "s\u0323\u0307", "s\u0307\u0323", "\u1e9b\u0323", "\u0f73\u0f71", "\u2adc", "\ufb2e", "\uf900",
    "\U0002f800", "\U0001d15e", "ภาษาไทย", "中文English混合", "漢字かな", "テスト", "ーー",
    "\u304b\u3099", "\u3400\U00020000", "}\n///", "/path/to/x", "-foo", "(a)", "$x", "\u2014x",
    "==>", "!!!", "...\n\n", "\U0001f600", "a\U0001f600b",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7",
    "\U0001f44d\U0001f3fd", "#\ufe0f\u20e3", "\U0010ffff", "\ufffd", "\u0378", "\ue000",
    "\U000e0041", "<|im_start|>", "<|im_start", "<|im_start|><|im_end|>", "<think>", "x<s>y",
    "<s></s>", "[INST]", "[INST] a [/INST]", "<SPECIAL_30>", "[BOS]a<|im_user|>", "<|endoftext|>", "a<|endoftext|> b", "▁", "a▁b", "<0x41>", "Ġ", "Ċ", "Ā\u0143",
    "A1" * 50, "\u2028\u2029", "\u3000x", "\u1680", "x\u202f9", "\x0b\x0c\x1c\x1d\x7f\xa0",
    "'\u02bcs", "I'LL", "i'd've", "''t", "' s", "a'b'c", "\ufb00'ff", "ß'SS",
]

# First and last code point of what strings are drawn from. All of Unicode 9 or older.
ALPHABETS = {
    "latin": [(0x20, 0x7e), (0xa0, 0x24f)], "control": [(0, 0x20), (0x7f, 0xa0)],
    "greek": [(0x370, 0x377), (0x384, 0x38a), (0x38e, 0x3a1), (0x1f00, 0x1f15)],
    "cyrillic": [(0x400, 0x52f)], "hebrew": [(0x591, 0x5c7), (0x5d0, 0x5ea)],
    "arabic": [(0x620, 0x6ff)], "armenian": [(0x531, 0x556), (0x561, 0x587)],
    "georgian": [(0x10d0, 0x10ff)], "devanagari": [(0x900, 0x97f)],
    "bengali": [(0x980, 0x983), (0x985, 0x98c), (0x993, 0x9a8), (0x9be, 0x9c4), (0x9c7, 0x9cd)],
    "gurmukhi": [(0xa13, 0xa28), (0xa3c, 0xa3c), (0xa3e, 0xa42), (0xa4b, 0xa4d), (0xa59, 0xa5c)],
    "gujarati": [(0xa93, 0xaa8), (0xabc, 0xac5), (0xacb, 0xacd), (0xae6, 0xaef)],
    "odia": [(0xb13, 0xb28), (0xb3c, 0xb44), (0xb47, 0xb48), (0xb4b, 0xb4d), (0xb5c, 0xb5d)],
    "tamil": [(0xb8e, 0xb90), (0xbae, 0xbb9), (0xbbe, 0xbc2), (0xbc6, 0xbc8), (0xbca, 0xbcd)],
    "telugu": [(0xc05, 0xc0c), (0xc2a, 0xc39), (0xc3e, 0xc44), (0xc46, 0xc48), (0xc4a, 0xc4d)],
    "kannada": [(0xcaa, 0xcb3), (0xcbc, 0xcc4), (0xcc6, 0xcc8), (0xcca, 0xccd), (0xcd5, 0xcd6)],
    "malayalam": [(0xd12, 0xd3a), (0xd3d, 0xd44), (0xd46, 0xd48), (0xd4a, 0xd4e)],
    "sinhala": [(0xd85, 0xd96), (0xdcf, 0xdd4), (0xdd8, 0xddf), (0xdca, 0xdca)],
    "thai": [(0xe01, 0xe3a), (0xe3f, 0xe5b)], "lao": [(0xe94, 0xe97), (0xeb0, 0xeb9)],
    "tibetan": [(0xf40, 0xf47), (0xf71, 0xf84)], "myanmar": [(0x1000, 0x103f)],
    "hangul": [(0xac00, 0xd7a3), (0x1100, 0x1112), (0x1161, 0x1175), (0x11a8, 0x11c2)],
    "kana": [(0x3041, 0x3096), (0x3099, 0x30ff)], "han": [(0x4e00, 0x9fa5), (0x3400, 0x3500)],
    "han extensions": [(0xf900, 0xfa2d), (0x20000, 0x20100), (0x2f800, 0x2f820)],
    "marks": [(0x300, 0x362), (0x61, 0x7a), (0x1dc0, 0x1de6), (0x20d0, 0x20dc)],
    "punctuation": [(0x21, 0x2f), (0x3a, 0x40), (0x2010, 0x2027), (0x3001, 0x3011)],
    "spaces": [(0x9, 0xd), (0x20, 0x20), (0x85, 0x85), (0xa0, 0xa0), (0x1680, 0x1680),
               (0x2000, 0x200f), (0x2028, 0x202f), (0x205f, 0x2060), (0x3000, 0x3000),
               (0x180e, 0x180e), (0xfeff, 0xfeff)],
    "digits": [(0x30, 0x39), (0x660, 0x669), (0x966, 0x96f), (0xb2, 0xb3), (0x2150, 0x2169)],
    "symbols": [(0x2100, 0x214f), (0x2190, 0x2300), (0x1d400, 0x1d420), (0x1d7ce, 0x1d7ff)],
    "emoji": [(0x1f600, 0x1f640), (0x1f1e6, 0x1f1ff), (0x1f3fb, 0x1f3ff), (0x200d, 0x200d),
              (0xfe0f, 0xfe0f), (0x2600, 0x26ff)],
    "presentation": [(0xfb00, 0xfb06), (0xfb1d, 0xfb36), (0xff01, 0xff5e), (0xfe50, 0xfe52)],
    "private": [(0xe000, 0xe010), (0xfffd, 0xfffd), (0x10fffe, 0x10ffff), (0xfdd0, 0xfdd5)],
}
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<s>", "</s>",
            "[INST]", "<|im_user|>", "<|tool_call_begin|>", "<unk>"]


def draw(rng, names, length):
    out = []
    for _ in range(length):
        first, last = rng.choice(ALPHABETS[rng.choice(names)])
        out.append(chr(rng.randint(first, last)))
    return "".join(out)


def cut(rng, text):
    a, b = sorted(rng.randint(0, len(text)) for _ in range(2))
    return text[a:b]


def mixture(rng):
    """Pieces of every sort joined without regard for sense."""
    out = []
    for _ in range(rng.randint(1, 8)):
        sort = rng.random()
        if sort < 0.35:
            out.append(cut(rng, rng.choice(SENTENCES)))
        elif sort < 0.55:
            out.append(draw(rng, [rng.choice(list(ALPHABETS))], rng.randint(1, 6)))
        elif sort < 0.7:
            out.append(rng.choice(TABLE))
        elif sort < 0.8:
            out.append(rng.choice(SPECIALS))
        elif sort < 0.9:
            out.append(rng.choice([" ", "\n", "\r\n", "\t", "  ", "\u00a0", "'", "_"]))
        else:
            out.append(draw(rng, ["latin"], 1) * rng.randint(2, 20))
    return "".join(out)


def make_strings(seed, n_each, n_mixed):
    rng = random.Random(seed)
    names = list(ALPHABETS)
    strings = TABLE + SENTENCES
    for name in names:
        for _ in range(n_each):
            others = rng.choice([[name], [name], [name, "latin"], [name, "spaces"],
                                 [name, "punctuation"], [name, "marks"], [name, "digits"]])
            strings = strings + [draw(rng, others, rng.randint(1, 24))]
    strings = strings + [draw(rng, names, rng.randint(1, 30)) for _ in range(n_mixed // 3)]
    strings = strings + [mixture(rng) for _ in range(n_mixed)]
    return strings


RUNS = [[piece, 50000] for piece in
        ["a", " ", "!", "\n", "ab", "1", "\u6f22", "A1", "e\u0301", "\u0301", "\u0327\u0301",
         "'s", "\u0915\u094d"]] + [["the ", 120000]]


def expand(case):
    return case if isinstance(case, str) else case[0] * case[1]
