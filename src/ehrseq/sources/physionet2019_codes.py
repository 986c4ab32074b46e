"""The variables of PhysioNet 2019: unit, description, plausible limits.

Descriptions follow the Challenge's page (Reyna et al. 2019, doi 10.13026/v64v-d857); limits are wide: they catch what
cannot be, not what is rare.
"""

from typing import NamedTuple


class Variable(NamedTuple):
    """One variable: unit, description, plausible limits (inclusive)."""

    unit: str
    description: str
    low: float | None = None
    high: float | None = None


MEASURED: dict[str, Variable] = {
    "HR": Variable("bpm", "Heart rate", 5, 350),
    "O2Sat": Variable("%", "Pulse oximetry", 20, 100),
    "Temp": Variable("°C", "Temperature", 20, 50),
    "SBP": Variable("mmHg", "Systolic blood pressure", 20, 320),
    "MAP": Variable("mmHg", "Mean arterial pressure", 10, 320),
    "DBP": Variable("mmHg", "Diastolic blood pressure", 5, 320),
    "Resp": Variable("breaths/min", "Respiration rate", 1, 120),
    "EtCO2": Variable("mmHg", "End-tidal carbon dioxide", 1, 120),
    "BaseExcess": Variable("mmol/L", "Excess bicarbonate", -50, 110),
    "HCO3": Variable("mmol/L", "Bicarbonate", 0, 80),
    "FiO2": Variable("fraction", "Fraction of inspired oxygen", 0.1, 1),
    "pH": Variable("pH", "Arterial pH", 6.3, 8.2),
    "PaCO2": Variable("mmHg", "Partial pressure of arterial CO2", 5, 200),
    "SaO2": Variable("%", "Arterial oxygen saturation", 10, 100),
    "AST": Variable("IU/L", "Aspartate transaminase", 1, 40000),
    "BUN": Variable("mg/dL", "Blood urea nitrogen", 0.5, 300),
    "Alkalinephos": Variable("IU/L", "Alkaline phosphatase", 1, 5000),
    "Calcium": Variable("mg/dL", "Calcium", 0.5, 30),
    "Chloride": Variable("mmol/L", "Chloride", 20, 200),
    "Creatinine": Variable("mg/dL", "Creatinine", 0.05, 50),
    "Bilirubin_direct": Variable("mg/dL", "Direct bilirubin", 0.01, 100),
    "Glucose": Variable("mg/dL", "Serum glucose", 5, 2000),
    "Lactate": Variable("mg/dL", "Lactic acid", 0.05, 50),
    "Magnesium": Variable("mmol/dL", "Magnesium", 0.1, 15),
    "Phosphate": Variable("mg/dL", "Phosphate", 0.1, 30),
    "Potassium": Variable("mmol/L", "Potassium", 0.5, 30),
    "Bilirubin_total": Variable("mg/dL", "Total bilirubin", 0.05, 100),
    "TroponinI": Variable("ng/mL", "Troponin I", 0, 600),
    "Hct": Variable("%", "Haematocrit", 3, 80),
    "Hgb": Variable("g/dL", "Haemoglobin", 1, 40),
    "PTT": Variable("s", "Partial thromboplastin time", 5, 300),
    "WBC": Variable("10^3/uL", "Leukocyte count", 0, 500),
    "Fibrinogen": Variable("mg/dL", "Fibrinogen", 10, 3000),
    "Platelets": Variable("10^3/uL", "Platelets", 0.5, 3000),
}
NUMBERS = {
    "Age": Variable("years", "Age (100 for 90 and above)", 0, 120),
    "HospAdmTime": Variable("h", "Hours from ICU admission back to hospital admission, negative"),
}
# (column, value): static code
CATEGORIES: dict[tuple[str, int], str] = {
    ("Gender", 0): "Gender//female",
    ("Gender", 1): "Gender//male",
    ("Unit1", 1): "Unit//medical",
    ("Unit2", 1): "Unit//surgical",
}
HOUR, LABEL = "ICULOS", "SepsisLabel"
COLUMNS = (*MEASURED, "Age", "Gender", "Unit1", "Unit2", "HospAdmTime", HOUR)
