"""Engine processes: started, watched, drained and ended towards a target."""
