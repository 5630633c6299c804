"""The main job: what derivatives tell about a classifier of handwritten digits.

``python -m examples.digits`` trains a small convolutional network on scikit-learn's
copy of the UCI digits and takes it apart with the transforms. Every derivative is
checked against ``torch.autograd`` and timed beside it.
"""
