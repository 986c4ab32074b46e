"""The TRIPOD+AI checklist (Collins et al. 2024, BMJ 385: e078378), filled where the run knows the answer."""

from typing import NamedTuple

from ehrseq.reporting.page import Page, sizes_of
from ehrseq.reporting.words import kept_in_words, model_in_words

OPEN = "*to be written by the authors*"


class Item(NamedTuple):
    """One item: its number, section, what it asks (in short), and the answer."""

    number: str
    section: str
    asks: str
    answer: str

    @property
    def filled(self) -> bool:
        """Whether the run knew something to say."""
        return self.answer != OPEN


def checklist(page: Page) -> list[Item]:
    """All 27 main items."""
    config, evaluation = page.config, page.evaluation
    options = evaluation["key"]["evaluate"]
    splits = sizes_of(evaluation)
    split = config["split"]
    division = (
        "the dataset's own splits, by subject"
        if split["method"] == "source"
        else f"by subject, seeded hash (seed {split['seed']}): tuning {split['tuning']:.0%}, held_out "
        f"{split['held_out']:.0%}, train the rest"
    )
    pre = config["preprocess"]
    target = config["task"]["target"]["kind"]
    measured = [
        name for name in ("auroc", "auprc", "calibration_slope", "brier") if page.metric(name)["value"] is not None
    ]
    result = "; ".join(f"{name} {page.words(name)}" for name in measured) or "see metrics.json"
    has_groups = "groups" in page.tables
    known = {
        "1": f"Draft: Development and internal validation of a model ({config['model']['name']}) of "
        f"{config['task']['name']} on {evaluation['source']}",
        "3c": "see Table 1 in the report for who was studied" if "table1" in page.tables else OPEN,
        "5a": f"source `{evaluation['source']}`, digest `{evaluation['data_digest']}`",
        "6a": OPEN,
        "7": f"normaliser {pre['normaliser']}, values cut at {pre['clip']} spreads, codes of fewer than "
        f"{pre['min_subjects']} train subjects: fallback {pre['fallback']}; limits {pre['limits']}, unit repairs "
        f"{pre['repairs']}; everything fitted on train alone",
        "8a": f"task `{config['task']['name']}`, target kind {target}",
        "9a": "all codes of the record up to the prediction time, with their times; see missingness in the report",
        "10": f"all available predictions: {splits}",
        "11": "no imputation: the network reads what was measured, that it was measured, and how long ago",
        "12a": f"divided {division}; training learns on train, every choice is made on tuning, held_out is scored once",
        "12b": f"representation {config['representation']['name']}; normalisation as in item 7",
        "12c": f"model {model_in_words(config)}, {config['trainer']['max_epochs']} epochs at most, weights "
        f"of the {kept_in_words(page.training)}; all settings in train/config.yaml",
        "12d": f"subgroups of the report, groups under {options['min_group']} hidden" if has_groups else OPEN,
        "12e": f"discrimination, calibration, net benefit, by group; {page.level:.0%} intervals from "
        f"{options['replicates']:,} bootstrap samples of subjects",
        "12f": f"recalibration: {evaluation['key'].get('recalibration', 'none')}, fitted on tuning",
        "13": f"class weight {config['loss']['class_weight']}, focal {config['loss']['focal']}, logit adjustment "
        f"{config['loss']['logit_adjustment']}; calibration is shown before and after recalibration",
        "14": "performance by subgroup with flags adjusted for their number (Holm)" if has_groups else OPEN,
        "15": f"predictions of kind {target}; thresholds chosen on tuning by Youden, sensitivity "
        f"{options['sensitivity']:g}, alert budget {options['alert_budget']:g}",
        "16": "development and evaluation data come from one source; see Table 1 for the splits side by side",
        "20a": "flow of participants: figure cohort" if "attrition" in page.tables else OPEN,
        "20b": "Table 1 of the report" if "table1" in page.tables else OPEN,
        "21": splits,
        "22": "weights and preprocessing in train/; `ehrseq predict run=...` applies them to new subjects",
        "23a": result,
        "23b": "figure and table `groups`" if has_groups else OPEN,
        "25": OPEN,
        "26": OPEN,
        "18e": "see source; not redistributed with this report",
        "18f": "settings, seed, package versions and code version in train/; the code is ehrseq (Apache-2.0)",
    }
    return [Item(number, section, asks, known.get(number, OPEN)) for number, section, asks in _ITEMS]


_ITEMS = (
    ("1", "Title", "Study as developing or evaluating a prediction model, target population, outcome"),
    ("2", "Abstract", "TRIPOD+AI for Abstracts"),
    ("3a", "Introduction", "Healthcare context and rationale, existing models"),
    ("3b", "Introduction", "Target population, purpose, intended users"),
    ("3c", "Introduction", "Known health inequalities between sociodemographic groups"),
    ("4", "Introduction", "Objectives: development, evaluation, or both"),
    ("5a", "Methods: data", "Sources of data for development and evaluation"),
    ("5b", "Methods: data", "Dates of collected data and follow-up"),
    ("6a", "Methods: participants", "Setting and location of centres"),
    ("6b", "Methods: participants", "Eligibility criteria"),
    ("6c", "Methods: participants", "Treatments received"),
    ("7", "Methods: data preparation", "Pre-processing and quality checking, also across groups"),
    ("8a", "Methods: outcome", "Outcome, time horizon, how assessed"),
    ("8b", "Methods: outcome", "Qualifications of outcome assessors, where judgement is needed"),
    ("8c", "Methods: outcome", "Blinding of outcome assessment"),
    ("9a", "Methods: predictors", "Choice of initial predictors and pre-selection"),
    ("9b", "Methods: predictors", "Definition and measurement of predictors"),
    ("9c", "Methods: predictors", "Qualifications of predictor assessors, where judgement is needed"),
    ("10", "Methods: sample size", "How the study size was arrived at"),
    ("11", "Methods: missing data", "How missing data were handled"),
    ("12a", "Methods: analysis", "How data were used for development and evaluation"),
    ("12b", "Methods: analysis", "How predictors were handled in the analysis"),
    ("12c", "Methods: analysis", "Type of model, all building steps, hyperparameter tuning, internal validation"),
    ("12d", "Methods: analysis", "How heterogeneity across clusters was handled"),
    ("12e", "Methods: analysis", "Measures and plots of performance"),
    ("12f", "Methods: analysis", "Model updating, such as recalibration"),
    ("12g", "Methods: analysis", "How predictions were calculated, for evaluation"),
    ("13", "Methods: class imbalance", "Methods for class imbalance, recalibration after them"),
    ("14", "Methods: fairness", "Approaches to model fairness and their rationale"),
    ("15", "Methods: output", "Output of the model, rationale of thresholds"),
    ("16", "Methods: training against evaluation", "Differences between development and evaluation data"),
    ("17", "Methods: ethics", "Approval and consent"),
    ("18a", "Open science", "Funding and role of funders"),
    ("18b", "Open science", "Conflicts of interest"),
    ("18c", "Open science", "Where the protocol is"),
    ("18d", "Open science", "Registration"),
    ("18e", "Open science", "Availability of the data"),
    ("18f", "Open science", "Availability of the code"),
    ("19", "Patient and public involvement", "Details, or that there was none"),
    ("20a", "Results: participants", "Flow of participants, with and without the outcome"),
    ("20b", "Results: participants", "Characteristics, missing data, by data source"),
    ("20c", "Results: participants", "Comparison of development and evaluation data"),
    ("21", "Results: development", "Number of participants and outcome events in each analysis"),
    ("22", "Results: specification", "Full model, for predictions of new individuals"),
    ("23a", "Results: performance", "Performance with confidence intervals, also of key subgroups"),
    ("23b", "Results: performance", "Heterogeneity of performance"),
    ("24", "Results: updating", "Results of model updating"),
    ("25", "Discussion", "Interpretation, fairness, earlier studies"),
    ("26", "Discussion", "Limitations"),
    ("27a", "Discussion: usability", "Poor-quality or unavailable input data"),
    ("27b", "Discussion: usability", "Interaction with and expertise of users"),
    ("27c", "Discussion: usability", "Next steps, generalisability"),
)
