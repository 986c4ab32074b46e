"""The variables of PhysioNet 2012: what they are, what is plausible, which unit mix-ups are mended.

Limits are wide: they catch what cannot be, not what is rare. Descriptions follow the Challenge's own page (Silva et
al. 2012, doi 10.13026/1jqp-gp84).
"""

from typing import NamedTuple

DESCRIPTORS = ("Age", "Gender", "Height", "ICUType")
GENDERS = {0: "Gender//female", 1: "Gender//male"}
ICU_TYPES = {
    1: "ICUType//coronary_care",
    2: "ICUType//cardiac_surgery_recovery",
    3: "ICUType//medical",
    4: "ICUType//surgical",
}


class Repair(NamedTuple):
    """Values in [low, high] are a known mix-up; the mended value is value * scale + offset."""

    low: float
    high: float
    scale: float
    offset: float = 0.0


class Variable(NamedTuple):
    """One variable: unit, description, plausible limits (inclusive), repairs."""

    unit: str
    description: str
    low: float
    high: float
    repairs: tuple[Repair, ...] = ()


_FAHRENHEIT = Repair(77.0, 113.0, 5 / 9, -32 * 5 / 9)

VARIABLES: dict[str, Variable] = {
    "ALP": Variable("IU/L", "Alkaline phosphatase", 1, 5000),
    "ALT": Variable("IU/L", "Alanine transaminase", 1, 20000),
    "AST": Variable("IU/L", "Aspartate transaminase", 1, 40000),
    "Age": Variable("years", "Age at admission", 0, 120),
    "Albumin": Variable("g/dL", "Albumin", 0.5, 10),
    "BUN": Variable("mg/dL", "Blood urea nitrogen", 0.5, 300),
    "Bilirubin": Variable("mg/dL", "Bilirubin", 0.05, 100),
    "Cholesterol": Variable("mg/dL", "Cholesterol", 10, 1000),
    "Creatinine": Variable("mg/dL", "Serum creatinine", 0.05, 40),
    "DiasABP": Variable("mmHg", "Invasive diastolic arterial blood pressure", 5, 200),
    "FiO2": Variable("fraction", "Fraction of inspired oxygen", 0.2, 1, (Repair(20, 100, 0.01),)),
    "GCS": Variable("score", "Glasgow coma score (3-15)", 3, 15),
    "Glucose": Variable("mg/dL", "Serum glucose", 5, 2000),
    "HCO3": Variable("mmol/L", "Serum bicarbonate", 2, 70),
    "HCT": Variable("%", "Haematocrit", 5, 75),
    "HR": Variable("bpm", "Heart rate", 5, 350),
    # Metres, or inches, written into a field of centimetres.
    "Height": Variable(
        "cm", "Height", 100, 240, (Repair(1.0, 2.4, 100), Repair(50, 84, 2.54), Repair(1000, 2400, 0.1))
    ),
    "K": Variable("mEq/L", "Serum potassium", 0.5, 15),
    "Lactate": Variable("mmol/L", "Lactate", 0.05, 40),
    "MAP": Variable("mmHg", "Invasive mean arterial blood pressure", 10, 250),
    "MechVent": Variable("flag", "Mechanical ventilation (1 when present)", 1, 1),
    "Mg": Variable("mmol/L", "Serum magnesium", 0.1, 15),
    "NIDiasABP": Variable("mmHg", "Non-invasive diastolic arterial blood pressure", 5, 200),
    "NIMAP": Variable("mmHg", "Non-invasive mean arterial blood pressure", 10, 250),
    "NISysABP": Variable("mmHg", "Non-invasive systolic arterial blood pressure", 20, 320),
    "Na": Variable("mEq/L", "Serum sodium", 80, 200),
    "PaCO2": Variable("mmHg", "Partial pressure of arterial CO2", 5, 200),
    "PaO2": Variable("mmHg", "Partial pressure of arterial O2", 15, 700),
    "Platelets": Variable("cells/nL", "Platelets", 1, 3000),
    "RespRate": Variable("bpm", "Respiration rate", 2, 120),
    "SaO2": Variable("%", "O2 saturation in haemoglobin", 20, 100),
    "SysABP": Variable("mmHg", "Invasive systolic arterial blood pressure", 20, 320),
    "Temp": Variable("°C", "Temperature", 25, 45, (_FAHRENHEIT,)),
    "TroponinI": Variable("ug/L", "Troponin-I", 0, 600),
    "TroponinT": Variable("ug/L", "Troponin-T", 0, 100),
    "Urine": Variable("mL", "Urine output", 0, 5000),
    "WBC": Variable("cells/nL", "White blood cell count", 0.01, 500),
    "Weight": Variable("kg", "Weight", 20, 350),
    # Written without the decimal point: 735 or 7350 for 7.35.
    "pH": Variable(
        "pH", "Arterial pH", 6.5, 8.0, (Repair(650, 800, 0.01), Repair(6500, 8000, 0.001), Repair(65, 80, 0.1))
    ),
}
