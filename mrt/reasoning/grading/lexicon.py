r"""What a word, a letter or a command in an answer is: the one table that the rest of the grader reads.

To add a unit, write a line into `UNIT_LINES`; to add a word that changes a value, write it into `FACTORS` or
`VALUE_WORDS`. Nothing else needs to change. A word that stands in no list is a *noun*: it may stand behind a number
("5 red marbles") and is left out of the comparison there, and nowhere else.
"""

from __future__ import annotations

from fractions import Fraction


def _split(text: str) -> list[str]:
    return text.split()


# spellings | size in units above it, or "base". Spellings in capitals and of at most two letters are read as written,
# the others in any case. "SI" behind the size: takes the prefixes below, the first spelling those of symbols.
UNIT_LINES = r"""
m metre metres meter meters mtr | base SI
g gram grams gramme grammes gm gms | base SI
s second seconds sec secs | base SI
A amp amps ampere amperes | base SI
K kelvin kelvins | base SI
mol mole moles | base SI
cd candela candelas | base
rad radian radians | base
dollar dollars usd bucks buck | base
euro euros eur | base
gbp sterling | base
yuan rmb | base
rupee rupees rs inr | base
yen jpy | base
peso pesos | base
celsius centigrade degC | base
fahrenheit degF | base
bit bits | base
degree degrees deg degs | pi/180 rad
arcmin arcminute arcminutes | 1/60 degree
arcsec arcsecond arcseconds | 1/3600 degree
rev revolution revolutions | 360 degree
min minute minutes mins | 60 s
h hr hrs hour hours | 3600 s
day days | 86400 s
week weeks wk wks | 7 day
fortnight fortnights | 14 day
month months | base
year years yr yrs | base
decade decades | 10 year
century centuries | 100 year
in inch inches | 0.0254 m
ft foot feet | 12 in
yd yard yards yds | 3 ft
mi mile miles | 1760 yd
furlong furlongs | 220 yd
angstrom angstroms | 0.0000000001 m
au | base
ly lightyear lightyears | base
pc parsec parsecs | base SI
hectare hectares ha | 10000 m^2
acre acres | 4840 yd^2
L l liter liters litre litres lt ltr ltrs | 0.001 m^3 SI
cc | 0.000001 m^3
gal gallon gallons | 231 in^3
qt quart quarts | 1/4 gal
pint pints pt pts | 1/8 gal
cup cups | 1/16 gal
floz | 1/128 gal
tbsp tablespoon tablespoons | 1/256 gal
tsp teaspoon teaspoons | 1/768 gal
tonne tonnes | 1000000 g
lb lbs pound pounds | 453.59237 g
oz ounce ounces | 1/16 lb
ton tons | 2000 lb
stone stones | 14 lb
amu Da dalton daltons | base
N newton newtons | 1000 g m s^-2 SI
J joule joules | 1 N m SI
W watt watts | 1 J s^-1 SI
Pa pascal pascals | 1 N m^-2 SI
Hz hertz | 1 s^-1 SI
C coulomb coulombs | 1 A s SI
V volt volts | 1 J C^-1 SI
ohm ohms | 1 V A^-1 SI
F farad farads | 1 C V^-1 SI
H henry henries | 1 V s A^-1 SI
T tesla teslas | 1 V s m^-2 SI
Wb weber webers | 1 V s
S siemens | 1 A V^-1
lm lumen lumens | base
lx lux | base
Bq becquerel becquerels | base
Gy gray grays | 1 J g^-1
eV electronvolt electronvolts | base SI
cal calorie calories | base SI
erg ergs | 0.0000001 J
dyn dyne dynes | 0.00001 N
bar bars | 100000 Pa
atm atmosphere atmospheres | 101325 Pa
mmHg torr | 101325/760 Pa
psi | base
lbf | base
hp horsepower | base
molar | base
byte bytes | 8 bit
KB kilobyte kilobytes | 1000 byte
MB megabyte megabytes | 1000000 byte
GB gigabyte gigabytes | 1000000000 byte
mph | 1 mi h^-1
kph kmph kmh | 1000 m h^-1
fps | 1 ft s^-1
mpg | 1 mi gal^-1
knot knots | base
rpm | 1 rev min^-1
cent cents pence penny pennies | 1/100 dollar
dime dimes | 1/10 dollar
nickel nickels | 1/20 dollar
dB decibel decibels | base
ppm | base
unit units | 1
th st nd rd | base
"""
PREFIXES = {
    **{"T": "tera", "G": "giga", "M": "mega", "k": "kilo", "c": "centi", "d": "deci", "m": "milli"},
    **{"u": "micro", "μ": "micro", "µ": "micro", "n": "nano", "p": "pico", "f": "femto", "h": "hecto"},
}
PREFIX_SIZES = {
    **{"tera": 12, "giga": 9, "mega": 6, "kilo": 3, "hecto": 2, "deci": -1, "centi": -2, "milli": -3, "micro": -6},
    **{"nano": -9, "pico": -12, "femto": -15},
}
# A single letter is a unit without \text only where it stands behind a number, the gold answer is a plain number, and
# it is one of these (with a space before it the second list).
BARE_UNITS, BARE_UNITS_SPACED = {"m", "s", "g", "L"}, {"h", "K", "N", "J", "W", "V"}
ROMAN_UNITS = {"T", "S", "H", "F"}  # letters that are a unit in \mathrm only: 5\text{T} may mean trillions
POWER_PREFIXES = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}  # before a unit of length
POWER_SUFFIXES = {"squared": 2, "cubed": 3}  # behind a unit, else a power of the number: 5 squared is 25
UNIT_FILLERS = {"per", "a", "an", "of", "the", "each", "in", "total", "altogether"}
GENERIC_NOUNS = {"item", "thing", "people", "person", "total", "piece", "object", "unit", "element", "number"}

_SMALL = _split(
    """
half third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth
"""
)
_LARGE = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12, "quadrillion": 15, "lakh": 5}
FACTORS: dict[str, Fraction] = {
    **{name: Fraction(1, n) for n, name in enumerate(_SMALL, 2)},
    **{name + "s": Fraction(1, n) for n, name in enumerate(_SMALL, 2)},
    **{"halves": Fraction(1, 2), "quarter": Fraction(1, 4), "quarters": Fraction(1, 4), "sixteenth": Fraction(1, 16)},
    **{"sixteenths": Fraction(1, 16), "twentieth": Fraction(1, 20), "twentieths": Fraction(1, 20)},
    **{name: Fraction(10**n) for name, n in _LARGE.items()},
    **{name + "s": Fraction(10**n) for name, n in _LARGE.items()},
    **{name + end: Fraction(1, 10**n) for name, n in _LARGE.items() if name != "lakh" for end in ("th", "ths")},
    **{"crore": Fraction(10**7), "crores": Fraction(10**7), "dozen": Fraction(12), "dozens": Fraction(12)},
    **{"gross": Fraction(144), "score": Fraction(20), "scores": Fraction(20), "bn": Fraction(10**9)},
}
# Words that say something about a value other than what is counted: an answer that holds one is never read as a number.
VALUE_WORDS = set(
    _split(
        """
or and to not is isn no than about approximately roughly nearly almost around percent pct times plus minus over
negative positive if for when where while until base mod modulo factorial with without more less fewer greater
smaller larger most least at from between through wrong right false true incorrect correct maybe possibly perhaps
unless except but however only just either neither both any all every none some many several infinite infinity
undefined divided multiplied added subtracted doubled tripled halved quadrupled twice thrice double triple quadruple
choose power powers root roots squares cubes
logs log sqrt raised exponent inverse reciprocal remainder fold pair pairs couple tens ones zero
one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen twenty thirty forty fifty sixty seventy eighty ninety point digit digits decimal imaginary complex rounded
below above under before after later earlier ago early late up down left mil mille myriad googol k mn mm
"""
    )
) - {"mm", "left", "early", "late"}
VALUE_ENDINGS: tuple[str, ...] = (
    "illion",
    "illions",
    "illionth",
    "illionths",
    "fold",
    "tuple",
    "tuples",
    "teenth",
    "teenths",
    "ieth",
)
VALUE_ENDINGS += ("teenths", "ieths", "dredths", "sandths")

TEXT_MACROS = "text|textrm|textbf|textit|textsf|texttt|textnormal|mathrm|mathbf|mathit|mathsf|mbox|hbox|operatorname"
VARIABLE_MACROS = {"mathit", "operatorname", "mathbf", "textit"}  # a single letter in one of these is no unit
CONSTANTS = {"e": "e", "i": "i", "pi": r"\pi ", "Pi": r"\pi ", "infinity": r"\infty "}
FUNCTIONS = set(
    _split(
        """
sin cos tan cot sec csc sinh cosh tanh coth arcsin arccos arctan arccot arcsec arccsc ln log exp max min gcd lcm det
sgn
"""
    )
) - {"sgn"}
BARE_FUNCTIONS = sorted(FUNCTIONS - {"max", "min", "det", "exp"}, key=len, reverse=True)
GREEK = set(
    _split(
        """
alpha beta gamma delta epsilon theta lambda mu nu rho sigma tau phi chi psi omega varepsilon varphi
"""
    )
)
LIST_WORDS = {"and", "or"}
CLOCK_MARKS = {"am": "am", "pm": "pm", "noon": "pm", "midnight": "am"}
BASES = {
    **{"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9"},
    **{"ten": "10", "twelve": "12", "sixteen": "16", "binary": "2", "octal": "8", "decimal": "10", "hex": "16"},
}
SHORT_WORDS = {"no", "yes", "odd", "dne", "one", "two", "six", "ten", "all"}  # words, without \text, when alone
STOP_WORDS = {"the", "a", "an", "is", "are", "be", "that", "it"}  # left out where words and mathematics are mixed
LITTLE_WORDS = {"at", "if", "in", "of", "on", "by", "to", "as", "so", "we", "no", "or", "not", "and", "for", "all"}
LITTLE_WORDS |= {"min", "max", "yes", "has", "its", "can", "may", "one", "two", "i.e", *STOP_WORDS} - {"a"}
DATE_WORDS = set(_split("jan feb mar apr may jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri sat sun"))
LITTLE_WORDS |= DATE_WORDS
# What may stand before an answer without belonging to it.
LEAD_INS = (
    r"(?:so|thus|hence|therefore)",
    r"(?:the )?(?:final |correct |best |required )?(?:answers?|solutions?|results?|values?)(?: set)?(?: is| are)?",
    r"(?:about|approximately|roughly|around|nearly|approx\.?|exactly)",
)
# Commands of LaTeX that math-verify may not know but that an answer may hold; one outside this list is a mistake.
KNOWN_COMMANDS = set(
    _split(
        """
frac sqrt pi text textrm textbf textit mathrm mathbf mathit mathbb mathcal operatorname overline bar hat vec tilde
dot ddot widehat overrightarrow overleftarrow underline cdot cdots ldots dots vdots ddots times div pm mp le ge ne
lt gt leq geq neq equiv approx sim simeq cong propto to rightarrow leftarrow Rightarrow Leftrightarrow
leftrightarrow mapsto iff implies infty emptyset cup cap bigcup bigcap setminus subset subseteq supset supseteq in
notin ni mid nmid parallel perp angle triangle square circ prime partial nabla sum prod int iint iiint oint lim sup
inf limits begin end binom choose pmod bmod mod lfloor rfloor lceil rceil langle rangle vert lvert rvert Vert lVert
rVert forall exists neg lnot land lor wedge vee oplus otimes odot star ast bullet dagger hbar ell Re Im aleph mho
quad qquad backslash alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi
rho varrho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ln
log lg exp sin cos tan cot sec csc sinh cosh tanh coth arcsin arccos arctan arccot arcsec arccsc max min gcd lcm det
dim ker deg arg hom Pr xrightarrow stackrel underset overset underbrace overbrace mathscr mathfrak boldsymbol tfrac
dfrac left right because therefore colon not hline
"""
    )
)
