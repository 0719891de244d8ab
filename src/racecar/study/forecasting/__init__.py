"""Forecasting of simulated smoke: a claim of the authors' later versions (arXiv 2007.00024).

There a network that was pretrained with the reverse pass forecasts the weather with a lower error than after regular
training or greedy pretraining. The weather's data and that network are not rebuilt; the flow is simulated here.
"""
