"""The language-model side: problems, traces, episodes, probes, rollouts and the trainer. Nothing is imported until used."""
