"""The names of the files in the folder of a run."""

CONFIG, LINEAGE, DONE = "config.yaml", "lineage.json", "DONE"  # `DONE` is in the folder of a run and of each stage
REPORT, PAGE = "report.md", "report.html"
CHECKPOINTS, EVALUATIONS = "checkpoints", "evaluation"  # in the folder of a stage; the second begins the file names
INITIAL = "start"  # the folder with the evaluations of the model from which the path starts
