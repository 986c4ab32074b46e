"""What happens in the synthetic hospital: measurements, medications, diagnoses, and how they depend on severity."""

from typing import NamedTuple


class Measurement(NamedTuple):
    """A vital sign or laboratory value: base + load * severity + spread of the subject + noise.

    Attributes:
        code: MEDS code.
        description: For people.
        low: Smallest plausible value.
        high: Largest plausible value.
        per_hour: Measurements an hour at severity 0; sicker subjects are measured more often.
        base: Value at severity 0.
        load: Change of the value a unit of severity.
        spread: Standard deviation between subjects.
        noise: Standard deviation between measurements.
        decimals: Digits kept.
        spike: Added during a spike, an episode at a random time; 0: there are none.
    """

    code: str
    description: str
    low: float
    high: float
    per_hour: float
    base: float
    load: float
    spread: float
    noise: float
    decimals: int
    spike: float = 0.0


class Happening(NamedTuple):
    """A medication or diagnosis: how likely, how often, and whether it carries a dose."""

    code: str
    description: str
    share: float
    load: float
    repeats: float
    dose: float


MEASUREMENTS = (
    Measurement("VITAL//heart_rate//bpm", "Heart rate", 20, 250, 0.7, 86, 6, 9, 6, 0),
    Measurement("VITAL//systolic_pressure//mmHg", "Systolic blood pressure", 40, 280, 0.7, 124, -3, 8, 6, 0, -52),
    Measurement("VITAL//diastolic_pressure//mmHg", "Diastolic blood pressure", 15, 180, 0.5, 66, -2, 6, 5, 0),
    Measurement("VITAL//respiratory_rate//bpm", "Respiratory rate", 4, 80, 0.5, 18, 1.5, 2.5, 2.5, 0),
    Measurement("VITAL//temperature//degC", "Body temperature", 28, 43, 0.25, 36.9, 0.15, 0.3, 0.3, 1),
    Measurement("VITAL//oxygen_saturation//%", "Oxygen saturation", 40, 100, 0.6, 96.5, -0.7, 1, 1, 0),
    Measurement("VITAL//coma_score//points", "Glasgow coma score", 3, 15, 0.2, 13.8, -0.8, 1, 0.6, 0),
    Measurement("LAB//lactate//mmol/L", "Lactate", 0.1, 30, 0.16, 1.5, 0.2, 0.25, 0.25, 1, 4.6),
    Measurement("LAB//creatinine//mg/dL", "Creatinine", 0.1, 25, 0.1, 1.0, 0.1, 0.15, 0.1, 2, 2.6),
    Measurement("LAB//potassium//mmol/L", "Potassium", 1.5, 9, 0.12, 4.1, 0.1, 0.25, 0.25, 1),
    Measurement("LAB//sodium//mmol/L", "Sodium", 100, 180, 0.12, 139, 0.3, 2.5, 1.5, 0),
    Measurement("LAB//glucose//mg/dL", "Glucose", 10, 1200, 0.15, 128, 8, 20, 18, 0),
    Measurement("LAB//white_cells//10^9/L", "White blood cells", 0.1, 200, 0.08, 10, 1.2, 2, 1, 1),
    Measurement("LAB//platelets//10^9/L", "Platelets", 1, 1500, 0.08, 220, -15, 45, 15, 0),
    Measurement("LAB//bilirubin//mg/dL", "Bilirubin", 0.1, 60, 0.05, 0.9, 0.2, 0.2, 0.15, 1),
    Measurement("LAB//haemoglobin//g/dL", "Haemoglobin", 2, 25, 0.1, 11, -0.4, 1.2, 0.4, 1),
    Measurement("LAB//urea//mg/dL", "Urea", 2, 300, 0.1, 26, 4, 8, 4, 0),
)

HAPPENINGS = (
    Happening("MED//norepinephrine//ug/kg/min", "Norepinephrine infusion", 0.24, 0.25, 1.5, 0.15),
    Happening("MED//antibiotic", "Broad-spectrum antibiotic", 0.42, 0.15, 1.5, 0.0),
    Happening("MED//furosemide//mg", "Furosemide", 0.3, 0.2, 1.5, 30.0),
    Happening("MED//insulin//U/h", "Insulin infusion", 0.25, 0.1, 2.0, 3.0),
    Happening("MED//propofol//mg/h", "Propofol infusion", 0.3, 0.3, 1.5, 120.0),
    Happening("DX//sepsis", "Sepsis", 0.2, 0.3, 0.0, 0.0),
    Happening("DX//pneumonia", "Pneumonia", 0.18, 0.3, 0.0, 0.0),
    Happening("DX//heart_failure", "Heart failure", 0.22, 0.15, 0.0, 0.0),
    Happening("DX//diabetes", "Diabetes mellitus", 0.28, 0.0, 0.0, 0.0),
    Happening("DX//kidney_disease", "Chronic kidney disease", 0.15, 0.1, 0.0, 0.0),
)

SEXES = (("SEX//F", "Female"), ("SEX//M", "Male"))
ADMISSIONS = (
    ("ADMISSION//EMERGENCY", "Emergency admission"),
    ("ADMISSION//ELECTIVE", "Elective admission"),
    ("ADMISSION//TRANSFER", "Transfer from another hospital"),
)
AGE = "AGE//years"
