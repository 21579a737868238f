"""What every flow needs: the decorator, parameters, presets, progress and the engines around it."""
