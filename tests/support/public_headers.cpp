// What a user's program includes, compiled as C++20 with more warnings than the project's own.
#include "comm/communicator.hpp"
#include "comm/reduce_gradients.hpp"
#include "comm/runtime.hpp"
#include "nn/convert_sync_batch_norm.hpp"
#include "nn/sum_over_ranks.hpp"
#include "nn/sync_batch_norm.hpp"
