"""What `visualize` is made of: the four choices of Feature Visualization (Olah, Mordvintsev, Schubert 2017,
doi:10.23915/distill.00007), in the manner of tensorflow/lucid.

`parametrisation` says what numbers a picture is made of, `transforms` how it is moved before the network
sees it, `objective` what is to become large, and `ascent` takes the steps. `canvas` puts the first two in
front of a network, and `subject` is what somebody wants to see.
"""
