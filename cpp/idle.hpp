// Steps of a parameter whose gradient is 0: what they do, and what is known of those that were put off.
#pragma once

#include "views.hpp"

namespace gdfast {

// What a step does to a parameter whose gradient is 0, beside decay, L1 and bounds.
enum class Idle {
    moves,    // its slots go on to move it
    shrinks,  // nothing but L2
    rests,    // nothing; L2 would change its slots
    fades,    // its slots fade, and with them the threshold of L1; L2 would change them
    settles,  // nothing from its second step on, at one rate, without decay, L1 and bounds; L2 would change its slots
};

// What columns at rest have missed. They are held as w growth, which no step without a gradient changes but by L1; growth is
// 1 / product of 1 - lr (l2 + decay), from the last step on that was made by all parameters.
struct Missed {
    Index steps;  // made
    double growth;
    const double* thresholds;  // sum of lr growth over the first t steps, from the same step on; null without L1
};

}  // namespace gdfast
