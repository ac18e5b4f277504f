"""Moving numbers without changing them: reshape, transpose, concatenate, slice, gather, pad."""
