def requirement(name):
    return "@pypi//:" + name
