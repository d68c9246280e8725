"""The language-model side: problems, traces, episodes, probes, rollouts, the trainer. Nothing is imported until used."""
