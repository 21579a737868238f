"""How far two ways to compute the same numbers may differ."""

# States and logits of tests are about 1 in size and sums of at most some hundred float32 products, each rounded to
# 6e-8. Another shape, thread count or processor adds them in another order, which changes them by less than 2e-6. What
# the tests tell apart differs by more than 1e-3.
ROUNDING = 1e-5
