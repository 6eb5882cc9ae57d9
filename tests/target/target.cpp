extern "C" int run_session();

int main() { return run_session(); }
