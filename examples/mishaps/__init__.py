"""What happens to long jobs: kills, bad calls and hostile files, many times over."""
