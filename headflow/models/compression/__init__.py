"""Follow-up questions with only a part of what the model keeps of a picture (Kaduri et al. 2025, "compressed context").

After a model has described a picture, its *context* is the keys and values of every token so far. The paper keeps those of the query tokens
(every prompt token that is not the picture's) and of the few image tokens that the description looked at most, layer by layer, drops the rest,
and asks on. Here they are dropped for good: the cache that the follow-up is read behind holds nothing else, so memory and time fall.
"""
