def unavailable(): return "x"
def unsupported(d,t): return "x"
