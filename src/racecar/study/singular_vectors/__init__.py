"""Whether a first layer's singular vectors are the directions of its data: a claim of the authors' later versions.

arXiv 2007.00024 shows for data of two classes of peaks, and for two MNIST images, that layers trained with the racecar
loss have the data's principal directions as singular vectors. Their data and networks are not published; these are made
after their description.
"""
