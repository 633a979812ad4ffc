"""Plans and checks of a recipe before it runs: text, memory, time, energy; arithmetic without PyTorch."""
