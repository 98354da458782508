"""What every floor of the pack uses: errors in one sentence, whole files, remarks, memory."""
