"""The transformer, its weights on disk and its KV cache.

Tensor shapes are written with these names:

| name         | size                                                                    |
| ------------ | ----------------------------------------------------------------------- |
| `batch`      | sequences of one forward pass; `rows` in packed training batches        |
| `tokens`     | tokens of one sequence in this pass; `new` where a cache holds earlier  |
| `past`       | tokens that the cache holds                                             |
| `extent`     | `past` + `new`: tokens that a query may attend to                       |
| `capacity`   | most tokens that the cache can hold of one sequence                     |
| `context`    | most positions that the model has                                       |
| `vocabulary` | rows of the embedding and of the output projection                      |
| `hidden`     | width of the residual stream                                            |
| `layers`     | transformer blocks                                                      |
| `heads`      | heads of queries                                                        |
| `kv_heads`   | heads of keys and values; `heads` is a multiple (grouped-query)         |
| `head_size`  | width of one head                                                       |
| `feed_forward` | width inside the feed-forward network                                 |

Weights of linear layers are [out, in], as in PyTorch.
"""
