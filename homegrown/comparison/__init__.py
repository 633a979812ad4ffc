"""Runs side by side: which settings differ, which stages therefore differ, what it did to every metric."""
