"""The zoo: does every model of many libraries get the right map? ``make zoo``.

Each library runs in a process of its own, so a crash of one model costs that model alone. The judge
is plain autograd with the activations replaced, which shares no mechanism with funcattr.
"""
