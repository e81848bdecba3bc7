"""``rotograd report``: one HTML page on a run, or on several side by side."""
