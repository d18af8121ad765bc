"""Metrics of pods and containers under the names that kubelet's cAdvisor gave them, for ListPodSandboxMetrics."""
