#include "launcher/launch.h"

int main(int argc, char **argv) {
    return sy_launch(argc, argv);
}
