"""Relevance by tables of rules, against two opinions that share nothing with funcattr.

`oracle` carries relevance by hand through a network written out in `layers`; `zennit_oracle` asks
zennit. `models` has networks that both are right about, `functional` those that only the first is.
"""
