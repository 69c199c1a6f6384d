"""Inner loops with one signature and several implementations; today all in plain torch."""
