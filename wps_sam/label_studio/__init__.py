"""Parts for Label Studio, where people correct them: ahead, as tasks with predictions, or as its backend.

``labelling`` reads what a project asks for; ``pictures`` finds the pictures of its tasks; ``results`` puts parts into
Label Studio's form; ``backend`` answers for tasks by all three; ``server`` is HTTP around it, with the requests and
answers of the label-studio-ml package, which is not needed.
"""
