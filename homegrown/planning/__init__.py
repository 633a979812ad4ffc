"""What a recipe will need, before anything is spent, and whether this machine has it; arithmetic without PyTorch."""
