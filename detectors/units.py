"""Changes of units that happen to real columns: old value x becomes factor * x + offset."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Conversion:
    """One change of units."""

    factor: float
    offset: float
    story: str  # for people


_FACTORS = (
    (10.0, "a decimal place slipped", "a decimal place slipped"),
    (100.0, "whole to hundredths, or a share to per cent", "hundredths to whole, or per cent to a share"),
    (
        1_000.0,
        "kilo to plain units, or seconds to milliseconds",
        "plain units to kilo, or milliseconds to seconds",
    ),
    (
        1e6,
        "mega to plain units, or seconds to microseconds",
        "plain units to mega, or microseconds to seconds",
    ),
    (1e9, "giga to plain units, or seconds to nanoseconds", "plain units to giga, or nanoseconds to seconds"),
    (1_024.0, "KiB to bytes", "bytes to KiB"),
    (1_048_576.0, "MiB to bytes", "bytes to MiB"),
    (7.0, "weeks to days", "days to weeks"),
    (12.0, "years to months, or feet to inches", "months to years, or inches to feet"),
    (24.0, "days to hours", "hours to days"),
    (60.0, "hours to minutes, or minutes to seconds", "minutes to hours, or seconds to minutes"),
    (1_440.0, "days to minutes", "minutes to days"),
    (3_600.0, "hours to seconds", "seconds to hours"),
    (86_400.0, "days to seconds", "seconds to days"),
    (1.609344, "miles to kilometres", "kilometres to miles"),
    (2.204623, "kilograms to pounds", "pounds to kilograms"),
    (2.54, "inches to centimetres", "centimetres to inches"),
    (3.28084, "metres to feet", "feet to metres"),
    (3.6, "metres per second to kilometres per hour", "kilometres per hour to metres per second"),
    (3.785412, "gallons to litres", "litres to gallons"),
    (4.184, "kilocalories to kilojoules", "kilojoules to kilocalories"),
    (14.50377, "bar to psi", "psi to bar"),
    (25.4, "inches to millimetres", "millimetres to inches"),
    (28.34952, "ounces to grams", "grams to ounces"),
    (30.48, "feet to centimetres", "centimetres to feet"),
    (33.86389, "inches of mercury to hectopascal", "hectopascal to inches of mercury"),
)

SCALES = tuple(
    conversion
    for factor, forth, back in _FACTORS
    for conversion in (Conversion(factor, 0.0, forth), Conversion(1 / factor, 0.0, back))
)

AFFINE = (
    Conversion(1.8, 32.0, "Celsius to Fahrenheit"),
    Conversion(1 / 1.8, -32 / 1.8, "Fahrenheit to Celsius"),
    Conversion(1.0, 273.15, "Celsius to kelvin"),
    Conversion(1.0, -273.15, "kelvin to Celsius"),
    Conversion(1.8, 32 - 273.15 * 1.8, "kelvin to Fahrenheit"),
    Conversion(1 / 1.8, 273.15 - 32 / 1.8, "Fahrenheit to kelvin"),
)
