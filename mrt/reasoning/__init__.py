"""The language-model side: problems, traces, episodes, probes, rollouts, trainer. Nothing is imported until used."""
